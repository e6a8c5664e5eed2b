"""The guarantee "for the record": every recorded field, whole and unrounded."""

from dataclasses import dataclass

from fedsim.report import plain
from fedsim.report.statement import Entry

FIELDS = {
    "unit": ("Unit", "what is protected as one whole"),
    "epsilon": ("Epsilon (ε)", "the privacy spent over the whole run; the maximum over clients"),
    "delta": ("Delta (δ)", "the slack of the guarantee"),
    "relation": ("Neighbouring relation", "in what the compared data sets differ"),
    "adversary": ("Adversary", "against whom the guarantee holds"),
    "placement": ("Placement of the noise", "where noise is added"),
    "mechanism": ("Mechanism", "the kind of noise"),
    "accountant": ("Accountant", "the method that added up the spending"),
    "conversion": ("Conversion", "how ε was read off at this δ"),
    "rdp": ("Cross-check: ε by RDP", "Rényi accounting; an upper bound, usually a little larger"),
    "prv": ("Cross-check: ε by PRV", "Opacus’ accountant"),
    "sampling": ("Sampling", "how units were drawn for a step"),
    "noise_multiplier": ("Noise multiplier", "noise standard deviation divided by the clip norm"),
    "clip_norm": ("Clip norm", "the most that one unit can contribute to a step"),
    "rate": ("Sampling rate", "probability that a unit is drawn for a step"),
    "steps": ("Steps", "noised releases; the maximum over clients"),
    "clients": ("ε over clients", "largest, median and smallest"),
    "n": ("Units (n)", "how many units there are"),
    "delta_times_n": ("δ × n", "must be well below 1"),
    "target_epsilon": ("Target ε", "what the noise was calibrated for"),
    "budget": ("Budget (ε)", "the run stops before it would exceed this"),
    "randomness": ("Randomness", "“secure” for real data; “reproducible” is simulation-grade"),
    "nan_updates": ("Invalid updates", "updates that were not numbers; counted as zero"),
    "assumptions": ("Assumptions", "what the guarantee rests on"),
    "flags": ("Flags", "warnings by the accountant"),
}
SOME_FIELDS = {
    "drop_outs": ("Drop-outs", "how often a client that was asked did not deliver"),
    "fold_limits": ("Limits on ε", "of each fold by itself; together they may spend more"),
}
OPTIONAL = {"prv": "not computed", "target_epsilon": "none", "budget": "none"}


@dataclass(frozen=True)
class Row:
    key: str
    label: str
    value: str
    hint: str


def particulars(entry: Entry) -> list[Row]:
    """One row per known field, also where it was not recorded, then whatever else the record holds."""
    known = [Row(key, label, _value(entry, key), hint) for key, (label, hint) in FIELDS.items()]
    others = {key: SOME_FIELDS.get(key, (key, "")) for key in entry if key not in FIELDS}
    return known + [Row(key, label, plain.exact(entry[key]), hint) for key, (label, hint) in others.items()]


def _value(entry: Entry, key: str) -> str:
    value = entry.get(key)
    return OPTIONAL[key] if value is None and key in OPTIONAL else plain.exact(value)
