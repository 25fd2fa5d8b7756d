import torch


class MLP(BaseWindows):
    def __init__(self, h, input_size, **kwargs):
        self.mlp = nn.ModuleList(layers)

        # Adapter with Loss dependent dimensions
        self.out = nn.Linear(
            in_features=hidden_size, out_features=h * self.loss.outputsize_multiplier
        )
