"""Features of the calendar, and lags that are known for the whole horizon."""

import numpy as np


def add_calendar(df):
    month = 2 * np.pi * df["ds"].dt.month / 12
    return df.assign(month_sin=np.sin(month), month_cos=np.cos(month))


def add_lags(df, lags):
    for lag in lags:
        shifted = df.groupby("unique_id")["y"].shift(lag)
        df = df.assign(**{f"lag_{lag}": shifted.fillna(df["y"])})
    return df
