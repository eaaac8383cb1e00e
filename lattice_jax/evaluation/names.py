"""Figures' names as people read them."""

_SPELLED = {
    "morans_i": "Moran's I",
    "morans_i_6": "Moran's I, 6 neighbours",
    "mrr": "MRR",
    "lyapunov_exponent": "Lyapunov exponent",
}


def spelled(name: str) -> str:
    """`settling_time` as "settling time"."""
    return _SPELLED.get(name, name.replace("_", " "))


def titled(name: str) -> str:
    """`settling_time` as "Settling time"."""
    return spelled(name)[:1].upper() + spelled(name)[1:]
