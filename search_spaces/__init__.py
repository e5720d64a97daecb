"""List the search spaces of all methods."""

from search_spaces import (
    akd,
    attention_transfer,
    crd,
    cross_entropy,
    dist,
    dkd,
    dml,
    dual_student,
    fitnet,
    ic_kd,
    kd,
    kd_aif,
    mlkd,
    review_kd,
    tf_kd,
    ttm,
    wttm,
)
from search_spaces.space import Space, Trial

SPACES: dict[str, Space] = {
    "cross_entropy": Space(cross_entropy.POINTS, cross_entropy.space),
    "kd": Space(kd.POINTS, kd.space),
    "ttm": Space(ttm.POINTS, ttm.space),
    "wttm": Space(wttm.POINTS, wttm.space),
    "akd": Space(akd.POINTS, akd.space),
    "dml": Space(dml.POINTS, dml.space),
    "dual_student": Space(dual_student.POINTS, dual_student.space),
    "kd_aif": Space(kd_aif.POINTS, kd_aif.space),
    "ic_kd": Space(ic_kd.POINTS, ic_kd.space),
    "tf_kd": Space(tf_kd.POINTS, tf_kd.space),
    "fitnet": Space(fitnet.POINTS, fitnet.space),
    "attention_transfer": Space(attention_transfer.POINTS, attention_transfer.space),
    "crd": Space(crd.POINTS, crd.space),
    "review_kd": Space(review_kd.POINTS, review_kd.space),
    "dkd": Space(dkd.POINTS, dkd.space),
    "dist": Space(dist.POINTS, dist.space),
    "mlkd": Space(mlkd.POINTS, mlkd.space),
}

__all__ = ["SPACES", "Space", "Trial"]
