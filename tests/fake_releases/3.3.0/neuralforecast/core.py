import torch


class NeuralForecast:
    def _predict_distributed(self, df, static_df, **kwargs):
        if repartition:
            df = df.repartitionByRange(df.rdd.getNumPartitions(), self.id_col)

    def _simulate_distributed(self, df, static_df, **kwargs):
        if repartition:
            df = df.repartitionByRange(df.rdd.getNumPartitions(), self.id_col)

    def predict_insample(self, step_size, level, quantiles):
        for i, trimmed_dataset in enumerate(trimmed_datasets):
            # Set test size to current series length
            self.h = trimmed_dataset.max_size
            fcsts, cols = self._generate_forecasts(
                dataset=trimmed_dataset,
                uids=self.uids[i : i + 1],
                quantiles_=quantiles_,
                level_=level_,
                has_level=has_level,
                step_size=step_size,
                h=None,
            )
            fcst_list.append(fcsts)

    def load(path, verbose, allow_pickle, trust_remote):
        neuralforecast._fitted = config_dict["_fitted"]
