import torch


class GRN(nn.Module):
    def __init__(self, input_size, hidden_size, **kwargs):
        if context_hidden_size is not None:
            self.lin_c = nn.Linear(context_hidden_size, hidden_size, bias=False)

    def forward(self, a: Tensor, c: Optional[Tensor] = None):
        if c is not None:
            x = x + self.lin_c(c).unsqueeze(1)


class VariableSelectionNetwork(nn.Module):
    def __init__(self, hidden_size, num_inputs, dropout, grn_activation):
        self.joint_grn = GRN(
            input_size=hidden_size * num_inputs,
            hidden_size=hidden_size,
            output_size=num_inputs,
            context_hidden_size=hidden_size,
            activation=grn_activation,
        )

    def forward(self, x: Tensor, context: Optional[Tensor] = None):
        grn_outputs = self.joint_grn(Xi, c=context)


class StaticCovariateEncoder(nn.Module):
    def __init__(self, hidden_size, num_static_vars, **kwargs):
        self.vsn = VariableSelectionNetwork(
            hidden_size=hidden_size,
            num_inputs=num_static_vars,
            dropout=dropout,
            grn_activation=grn_activation,
        )

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
        variable_ctx, sparse_weights = self.vsn(x)


class TFT(BaseModel):
    def __init__(self, h, input_size, **kwargs):
        # Static features are optional
        if self.stat_exog_size > 0:
            self.static_encoder = StaticCovariateEncoder(
                hidden_size=hidden_size,
                num_static_vars=self.stat_exog_size,
                dropout=dropout, grn_activation=grn_activation,
            )

    def forward(self, windows_batch):
        if s_inp is not None:
            cs, ce, ch, cc = self.static_encoder(s_inp)
