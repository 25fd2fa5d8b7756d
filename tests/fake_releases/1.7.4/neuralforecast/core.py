import torch


class NeuralForecast:
    def _predict_distributed(self, df, static_df, **kwargs):
        if repartition:
            df = df.repartitionByRange(df.rdd.getNumPartitions(), self.id_col)

    def load(path, verbose):
        neuralforecast._fitted = config_dict["_fitted"]
