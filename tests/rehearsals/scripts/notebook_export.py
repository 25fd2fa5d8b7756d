#!/usr/bin/env python
# coding: utf-8

# # Demand of a sample of items

# In[1]:


# get_ipython().system('pip install neuralforecast')


# In[2]:


import numpy as np
import pandas as pd

from neuralforecast import NeuralForecast
from neuralforecast.losses.pytorch import MAE
from neuralforecast.models import NHITS


# In[3]:


days = np.arange(150)
Y_df = pd.concat(
    pd.DataFrame(
        {
            "unique_id": f"item_{i:02d}",
            "ds": pd.date_range("2023-01-01", periods=150),
            "y": (5 + i) * (2 + np.sin(2 * np.pi * (days + i) / 7)),
        }
    )
    for i in range(20)
)
Y_df.groupby("unique_id")["y"].describe().head()


# All items take too long here: a sample of five will do.

# In[4]:


sample = np.random.choice(Y_df["unique_id"].unique(), size=5, replace=False)
Y_df = Y_df[Y_df["unique_id"].isin(sample)]


# In[5]:


nf = NeuralForecast(
    models=[NHITS(h=7, input_size=28, loss=MAE(), max_steps=200, val_check_steps=50, scaler_type="robust")], freq="D"
)
nf.fit(df=Y_df, val_size=14)


# In[6]:


Y_hat_df = nf.predict()
Y_hat_df.head()


# In[7]:


insample = nf.predict_insample(step_size=7)
print((insample["y"] - insample["NHITS"]).abs().groupby(insample["unique_id"]).mean())
