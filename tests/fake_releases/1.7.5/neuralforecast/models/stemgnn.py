import torch


class StockBlockLayer(nn.Module):
    def __init__(self, time_step, unit, multi_layer, stack_cnt=0):
        self.stack_cnt = stack_cnt
        self.backcast_short_cut = nn.Linear(self.time_step, self.time_step)

    def forward(self, x, mul_L):
        if self.stack_cnt == 0:
            backcast_short = self.backcast_short_cut(x).squeeze(1)
