import torch


class STADSharp(nn.Module):
    def add_positional_embedding(self, input):
        if self.training:
            if torch.rand(1, device=input.device).item() < self.pe_keep_prob:
                return self.positional_embedding(input, scale=self.pe_scale)
            return input
