#!/usr/bin/env python3
"""Turns a dataset that interp_embed has saved into a Parquet file that saequel imports.

    python interp_embed_to_parquet.py dataset.pkl answers.parquet
    saequel import answers.parquet --corpus answers --text text --features features --activations activations ...

interp_embed saves pickles, and a pickle can run any program when it is loaded. So saequel does not read them; this script
does, in a Python of your own, and lets a pickle name only the classes of NumPy, SciPy and pandas that hold data: one that
names anything else is refused before it is run.

Needs numpy, scipy, pandas (of about the version that wrote the file) and pyarrow; neither interp_embed nor a model.

What is written: the columns of the dataset; `doc_id`, the position of the document; `features`, the latents that are active
on some token, ascending; `activations`, the largest activation of each over the tokens. A document that was not encoded
has nulls there. Beside it, if the dataset has labels, `answers.labels.csv` with `latent` and `label`.
"""
import argparse
import csv
import json
import pickle
import sys
from pathlib import Path

import numpy as np

# Classes and functions that hold or rebuild data, by full name. No name with a dot in it: that would be a method.
DATA = {
    "builtins": {"bytearray", "complex", "frozenset", "set", "slice", "list", "dict", "tuple", "int", "float", "str", "bool"},
    "collections": {"OrderedDict"},
    "datetime": {"date", "datetime", "time", "timedelta", "timezone"},
    "_codecs": {"encode"},
    "numpy": {"dtype", "ndarray"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy.core.numeric": {"_frombuffer"},
    "numpy._core.numeric": {"_frombuffer"},
    "scipy.sparse._csr": {"csr_matrix", "csr_array"},
    "scipy.sparse.csr": {"csr_matrix"},
    "pandas": {"DataFrame", "Index", "RangeIndex", "Series", "StringDtype"},
    "pandas.core.frame": {"DataFrame"},
    "pandas.core.series": {"Series"},
    "pandas.core.internals.managers": {"BlockManager", "SingleBlockManager"},
    "pandas.core.internals.blocks": {"new_block"},
    "pandas._libs.internals": {"_unpickle_block"},
    "pandas._libs.arrays": {"__pyx_unpickle_NDArrayBacked"},
    "pandas._libs.missing": {"NAType", "NA"},
    "pandas._libs.tslibs.timestamps": {"_unpickle_timestamp"},
    "pandas._libs.tslibs.nattype": {"_nat_unpickle"},
    "pandas.core.indexes.base": {"Index", "_new_Index"},
    "pandas.core.indexes.range": {"RangeIndex"},
    "pandas.core.indexes.datetimes": {"DatetimeIndex", "_new_DatetimeIndex"},
    "pandas.arrays": {"ArrowStringArray", "StringArray", "DatetimeArray", "Categorical"},
    "pandas.core.arrays.string_": {"StringArray", "StringDtype"},
    "pandas.core.arrays.string_arrow": {"ArrowStringArray"},
    "pandas.core.arrays.datetimes": {"DatetimeArray"},
    "pandas.core.arrays.categorical": {"Categorical"},
    "pandas.core.dtypes.dtypes": {"CategoricalDtype", "DatetimeTZDtype"},
    "pyarrow.lib": {"_restore_array", "chunked_array", "ensure_type", "py_buffer", "string", "large_string", "type_for_alias"},
}


class Kind:
    """Stands for interp_embed's enum of the kinds of SAEs, of which only the name is of interest."""

    def __init__(self, value):
        self.value = value


class DataOnly(pickle.Unpickler):
    """An unpickler that knows data and nothing else."""

    def find_class(self, module, name):
        # The package that pip installs calls the folder saes, its repository sae.
        if module in ("interp_embed.sae.base_sae", "interp_embed.saes.base_sae") and name == "SAEType":
            return Kind
        if name in DATA.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(
            f"the file names {module}.{name}, which is not known to be data; it was not run. Is the file of interp_embed?"
        )


def load(path):
    """What interp_embed's Dataset.save_to_file has written: a dictionary."""
    with open(path, "rb") as file:
        saved = DataOnly(file).load()
    missing = {"dataset", "aggregate_activations", "field"} - set(saved if isinstance(saved, dict) else ())
    if missing:
        sys.exit(f"{path}: not a dataset of interp_embed: it has no {', '.join(sorted(missing))}")
    return saved


def maxima(saved):
    """Of each document its active latents, ascending, and their largest activations; None where it was not encoded."""
    for row, pooled in enumerate(saved["aggregate_activations"]):
        if pooled is None:
            yield None
            continue
        if "max" in pooled:
            most = pooled["max"]
        else:  # Saved by a dataset that keeps no pooled activations.
            most = saved["rows"][row].max(axis=0)
        most = most.tocsr().copy()
        most.sum_duplicates()
        # As interp_embed binarises: an activation above 0 on some token.
        active = most.data > 0
        order = np.argsort(most.indices[active], kind="stable")
        yield most.indices[active][order].astype(np.uint32), most.data[active][order].astype(np.float32), most.shape[1]


def main():
    import pyarrow as pa
    import pyarrow.parquet as pq

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="the pickle")
    parser.add_argument("output", type=Path, help="the Parquet file to write")
    args = parser.parse_args()

    saved = load(args.dataset)
    frame = saved["dataset"]
    ids, activations, width = [], [], 0
    for document in maxima(saved):
        if document is None:
            ids.append(None)
            activations.append(None)
            continue
        ids.append(document[0])
        activations.append(document[1])
        width = max(width, document[2])
    if len(ids) != len(frame):
        sys.exit(f"{args.dataset}: {len(frame)} documents, but activations of {len(ids)}")

    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    for taken in ("doc_id", "features", "activations"):
        if taken in table.column_names:
            renamed = [f"original_{name}" if name == taken else name for name in table.column_names]
            table = table.rename_columns(renamed)
    table = table.add_column(0, "doc_id", pa.array([str(i) for i in range(len(ids))]))
    table = table.append_column("features", pa.array(ids, pa.list_(pa.uint32())))
    table = table.append_column("activations", pa.array(activations, pa.list_(pa.float32())))
    kind = saved.get("sae_metadata") or {}
    sae = {key: value.value if isinstance(value, Kind) else value for key, value in kind.items()}
    table = table.replace_schema_metadata({"interp_embed_sae": json.dumps(sae, default=str)})
    pq.write_table(table, args.output, compression="zstd")

    command = [
        "saequel", "import", str(args.output), "--corpus", args.output.stem.replace("-", "_").lower(),
        "--text", f"'{saved['field']}'", "--features", "features", "--activations", "activations",
        "--width", str(width), "--made-by", f"'interp_embed, {sae.get('variant_name') or sae.get('sae_id') or 'SAE'}'",
    ]
    labels = {int(latent): label for latent, label in (saved.get("feature_labels") or {}).items() if label}
    if labels:
        names = args.output.with_suffix(".labels.csv")
        with open(names, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["latent", "label"])
            writer.writerows(sorted(labels.items()))
        command += ["--labels", str(names)]
    without = sum(document is None for document in ids)
    print(f"{args.output}: {len(ids)} documents of {width} features, {without} of them without activations")
    print(" ".join(command))


if __name__ == "__main__":
    main()
