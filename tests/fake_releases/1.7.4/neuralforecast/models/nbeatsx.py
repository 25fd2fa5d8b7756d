import torch


class NBEATSx(BaseWindows):
    def __init__(self, h, input_size, **kwargs):
        self.blocks = torch.nn.ModuleList(blocks)

        # Adapter with Loss dependent dimensions
        if self.loss.outputsize_multiplier > 1:
            self.out = nn.Linear(
                in_features=h, out_features=h * self.loss.outputsize_multiplier
            )

    def create_stack(self, stack_types):
        return []

    def forward(self, windows_batch):
        return self.blocks[0](windows_batch)
