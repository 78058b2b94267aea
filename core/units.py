"""Numbers as a person reads them: with a unit and sensible digits."""

from __future__ import annotations


def size(size_bytes: float) -> str:
    """``4.6 MB``, ``5.2 GB``: decimal units, as disks and the Hub count."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes:.0f} B"


def duration(seconds: float) -> str:
    """``8.4 s``, ``42 s``, ``3 min 12 s``, ``2 h 05 min``."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def usd(cost: float | None) -> str:
    """``$0.42``, ``under $0.01``; empty where no price is known."""
    if cost is None:
        return ""
    return f"${cost:,.2f}" if cost >= 0.005 or cost == 0 else "under $0.01"
