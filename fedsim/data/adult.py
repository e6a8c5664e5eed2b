"""UCI Adult, the census of 1994 (Becker and Kohavi 1996)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedsim.data.assembling import assemble
from fedsim.data.columns import Categorical, ClassLabel, Numeric
from fedsim.data.csv_table import Format, read_csv
from fedsim.data.dataset import Dataset
from fedsim.data.files import find_files
from fedsim.data.published import Published
from fedsim.data.scaling import Constants, ScalingChoice, Unscaled
from fedsim.data.tabular import Rows, Schema, encode
from fedsim.settings import section

ORDER = "age workclass fnlwgt education education-num marital-status occupation relationship race sex capital-gain"
FORMAT = Format(
    comment="|", columns=(*ORDER.split(), "capital-loss", "hours-per-week", "native-country", "income")
)  # the test file begins with a comment
# Round values: years, years at school, dollars, dollars, hours.
NUMERIC = (
    Numeric(name="age", mean=40, std=15),
    Numeric(name="education-num", mean=10, std=3),
    Numeric(name="capital-gain", mean=1000, std=7500),
    Numeric(name="capital-loss", mean=100, std=400),
    Numeric(name="hours-per-week", mean=40, std=12),
)
# As published in adult.names.
CATEGORIES = {
    "workclass": "Private Self-emp-not-inc Self-emp-inc Federal-gov Local-gov State-gov Without-pay Never-worked",
    "education": "Bachelors Some-college 11th HS-grad Prof-school Assoc-acdm Assoc-voc 9th 7th-8th 12th Masters "
    "1st-4th 10th Doctorate 5th-6th Preschool",
    "marital-status": "Married-civ-spouse Divorced Never-married Separated Widowed Married-spouse-absent "
    "Married-AF-spouse",
    "occupation": "Tech-support Craft-repair Other-service Sales Exec-managerial Prof-specialty Handlers-cleaners "
    "Machine-op-inspct Adm-clerical Farming-fishing Transport-moving Priv-house-serv Protective-serv Armed-Forces",
    "relationship": "Wife Own-child Husband Not-in-family Other-relative Unmarried",
    "race": "White Asian-Pac-Islander Amer-Indian-Eskimo Other Black",
    "sex": "Female Male",
    "native-country": "United-States Cambodia England Puerto-Rico Canada Germany Outlying-US(Guam-USVI-etc) India "
    "Japan Greece South China Cuba Iran Honduras Philippines Italy Poland Jamaica Vietnam Mexico Portugal Ireland "
    "France Dominican-Republic Laos Ecuador Taiwan Haiti Columbia Hungary Guatemala Nicaragua Scotland Thailand "
    "Yugoslavia El-Salvador Trinadad&Tobago Peru Hong Holand-Netherlands",
}
UNKNOWN = "?"
WITH_GAPS = ("workclass", "occupation", "native-country")
# The labels of the test file end in a full stop.
LABEL = ClassLabel("income", ("<=50K", ">50K"), {"<=50K": 0, "<=50K.": 0, ">50K": 1, ">50K.": 1})
PAGE = Published("archive.ics.uci.edu/dataset/2/adult")
Owner = Literal[
    "workclass", "education", "marital-status", "occupation", "relationship", "race", "sex", "native-country"
]


@section
@dataclass(frozen=True)
class Adult:
    """Income above 50,000 dollars or not, 48,842 people (UCI); files in ``path`` or ``$FEDSIM_DATA/adult``.

    ``client`` is the column whose values are the natural owners. ``unknown`` values ("?") are a category of their own,
    or their rows are dropped (45,222 are left). The sampling weight of the census, fnlwgt, is no feature.
    """

    source: Literal["adult"] = "adult"
    path: str | None = None
    client: Owner | None = None
    unknown: Literal["category", "drop"] = "category"
    scaling: ScalingChoice = Constants()

    def load(self, seed: int) -> Dataset:
        """Features ``[n, 107]`` (104 without the unknown) in the published split (the seed is not used)."""
        files = find_files("adult", self.path, ["adult.data", "adult.test"], PAGE)
        schema = self._schema()
        train, test = (self._rows(file, schema) for file in files)
        return assemble(
            schema, Unscaled(train, test, schema.features, lambda path: self._rows(Path(path), schema)), self.scaling
        )

    def _rows(self, file: Path, schema: Schema) -> Rows:
        return encode(read_csv(file, FORMAT), schema)

    def _schema(self) -> Schema:
        keep = self.unknown == "category"
        columns = []
        for name, values in CATEGORIES.items():
            extra = (UNKNOWN,) if keep and name in WITH_GAPS else ()
            columns.append(Categorical(name=name, values=(*values.split(), *extra)))
        return Schema((*NUMERIC, *columns), (LABEL,), self.client, (UNKNOWN,), "refuse" if keep else "drop")
