"""DilatedRNN's residual LSTM cells build a weight that most of them do not use.

`ResLSTMCell` multiplies its input by `weight_ir` only if input and hidden state differ in size, but always builds the
weight. With `cell_type="ResLSTM"` the input of every cell but the first is the hidden state of another, so that their
`weight_ir` never gets a gradient, and strict DDP refuses the model.

This patch freezes the weight where it is not used. Upstream has the bug up to 3.3.0.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

FILE = "neuralforecast/models/dilated_rnn.py"

BUILD = "self.weight_ir = nn.Parameter(torch.randn(hidden_size, input_size))"
FREEZE = """
if input_size == hidden_size:
    self.weight_ir.requires_grad_(False)
"""
TINY = {"cell_type": "ResLSTM", "encoder_hidden_size": 8, "decoder_hidden_size": 8}

ALL = ("static", "historic", "future")

patch = Patch(
    id="dilatedrnn-residual-weight",
    summary="DilatedRNN's ResLSTM cells build a weight that most of them do not use",
    group="unused-parameters",
    model="DilatedRNN",
    upstream="not fixed yet: docs/upstream/dilatedrnn-residual-weight.md",
    variants={
        ">=1.0": {
            FILE: Rewrite(
                changes=(Change("ResLSTMCell.__init__", old=BUILD, new=BUILD + FREEZE),),
                guarded_attributes={"weight_ir": "not self.input_size == self.hidden_size"},
            )
        },
    },
    unaffected={"<1.0": "releases before 1.0 have another layout and no DilatedRNN"},
    unused_parameters=("rnn_stack.*.cells.*.cell.weight_ir",),
    cases=(
        Case("DilatedRNN", "ResLSTM", options=TINY, releases=">=1.1"),
        Case("DilatedRNN", "ResLSTM, default sizes", options={"cell_type": "ResLSTM"}, releases="==1.0.*"),
        Case("DilatedRNN", "ResLSTM, MQLoss", "MQLoss", (), TINY, thorough=True, releases=">=1.1"),
        Case("DilatedRNN", "ResLSTM, all exogenous", "MAE", ALL, TINY, thorough=True, releases=">=1.1"),
    ),
)
