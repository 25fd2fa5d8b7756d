"""The parameters of a norm that TimeMixer switches off are frozen."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

BEFORE = """
class Normalize(nn.Module):
    def _normalize(self, x):
        if self.non_norm:
            return x
        return x * self.affine_weight

    def _denormalize(self, x):
        if self.non_norm:
            return x
        return x / self.affine_weight


class TimeMixer(BaseMultivariate):
    def __init__(self, h):
        self.normalize_layers = torch.nn.ModuleList(
            [
                Normalize(
                    self.enc_in, affine=True, non_norm=False if self.use_norm else True
                )
                for i in range(self.down_sampling_layers + 1)
            ]
        )

        self.predict_layers = torch.nn.ModuleList()
"""
AFTER = BEFORE.replace(
    "            ]\n        )\n",
    """\
            ]
        )
        if not self.use_norm:
            self.normalize_layers.requires_grad_(False)
""",
)


def test_they_are_frozen_where_it_is_switched_off() -> None:
    assert patched("timemixer-unused-norm", "1.7.4", BEFORE) == AFTER
    of_later_releases = [text.replace("  Normalize(", "  RevIN(") for text in (BEFORE, AFTER)]
    assert patched("timemixer-unused-norm", "3.3.0", of_later_releases[0]) == of_later_releases[1]


@pytest.mark.parametrize("method", ["_normalize", "_denormalize"])
def test_a_norm_that_scales_although_it_is_switched_off_is_refused(method: str) -> None:
    head = f"def {method}(self, x):\n        if self.non_norm:\n            return "
    assert BEFORE.count(head) == 1
    with pytest.raises(CodemodRefused, match=f"Normalize.{method}"):
        patched("timemixer-unused-norm", "1.7.4", BEFORE.replace(head, head + "self.affine_weight * "))


def test_norms_that_are_switched_off_by_something_else_are_refused() -> None:
    twin = BEFORE.replace("non_norm=False if self.use_norm else True", "non_norm=self.no_norm")
    with pytest.raises(CodemodRefused, match=r"TimeMixer.__init__"):
        patched("timemixer-unused-norm", "1.7.4", twin)
