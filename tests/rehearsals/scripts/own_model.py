# A model of one's own, as the guide "Adding models" says: two layers with batch normalization on top of a last value.
from torch import nn

from neuralforecast import NeuralForecast
from neuralforecast.common._base_model import BaseModel
from neuralforecast.losses.pytorch import MAE, MQLoss
from neuralforecast.models import NLinear
from neuralforecast.utils import generate_series


class NormedMLP(BaseModel):
    EXOGENOUS_FUTR = False
    EXOGENOUS_HIST = False
    EXOGENOUS_STAT = False
    MULTIVARIATE = False
    RECURRENT = False

    def __init__(self, h, input_size, hidden_size=64, dropout=0.1, loss=MAE(), valid_loss=None, **options):
        super().__init__(h=h, input_size=input_size, loss=loss, valid_loss=valid_loss, **options)
        self.body = nn.Sequential(
            nn.Linear(input_size, hidden_size),
            nn.BatchNorm1d(hidden_size),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_size, h * self.loss.outputsize_multiplier),
        )

    def forward(self, windows_batch):
        insample_y = windows_batch["insample_y"].squeeze(-1)
        last = insample_y[:, -1:]
        change = self.body(insample_y - last)
        return change.reshape(len(change), self.h, self.loss.outputsize_multiplier) + last.unsqueeze(-1)


# What BaseModel has no defaults for
options = dict(
    max_steps=300,
    learning_rate=1e-3,
    num_lr_decays=2,
    early_stop_patience_steps=-1,
    val_check_steps=100,
    batch_size=8,
    valid_batch_size=None,
    windows_batch_size=128,
    inference_windows_batch_size=128,
    start_padding_enabled=True,
    step_size=1,
    scaler_type="robust",
    random_seed=1,
)
df = generate_series(n_series=12, freq="D", min_length=100, max_length=140, seed=5).reset_index()
df["unique_id"] = df["unique_id"].astype(str)
nf = NeuralForecast(
    models=[NormedMLP(h=7, input_size=28, loss=MQLoss(level=[80]), **options), NLinear(h=7, input_size=28, **options)],
    freq="D",
)
nf.fit(df=df, val_size=7)
print(nf.predict().describe())
