import torch


class Normalize(nn.Module):
    def _normalize(self, x):
        if self.non_norm:
            return x

    def _denormalize(self, x):
        if self.non_norm:
            return x


class PastDecomposableMixing(nn.Module):
    def __init__(self, seq_len, pred_len, **kwargs):
        self.layer_norm = nn.LayerNorm(d_model)
        self.out_cross_layer = nn.Sequential(
            nn.Linear(in_features=d_model, out_features=d_ff),
            nn.GELU(),
            nn.Linear(in_features=d_ff, out_features=d_model),
        )

    def forward(self, x_list):
        for ori, out_season, out_trend, length in zip(
            x_list, out_season_list, out_trend_list, length_list
        ):
            if self.channel_independence:
                out = ori + self.out_cross_layer(out)


class TimeMixer(BaseMultivariate):
    def __init__(self, h, input_size, **kwargs):
        self.normalize_layers = torch.nn.ModuleList(
            [
                Normalize(
                    self.enc_in, affine=True, non_norm=False if self.use_norm else True
                )
                for i in range(self.down_sampling_layers + 1)
            ]
        )
