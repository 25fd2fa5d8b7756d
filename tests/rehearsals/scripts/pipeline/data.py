from neuralforecast.utils import AirPassengersPanel


def load():
    return AirPassengersPanel[["unique_id", "ds", "y"]].copy()


def split(df, horizon):
    """All but the last `horizon` steps of each series, and these."""
    test = df.groupby("unique_id").tail(horizon)
    return df.drop(test.index), test


def mae(test, forecasts, models):
    merged = test.merge(forecasts, how="left", on=["unique_id", "ds"])
    return {model: float((merged["y"] - merged[model]).abs().mean()) for model in models}
