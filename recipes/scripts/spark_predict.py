"""Answer rows that lie in Spark: every worker of a partition loads one backbone and many adapters.

    spark-submit spark_predict.py rows.parquet answers.parquet --store /mnt/adapters

The rows have the columns `adapter` and `text`; the answers stand beside all their columns, as JSON.
The store must be one that all workers can read: a folder of a shared file system, or a URL. Names
mean the versions that are the latest when the job starts, in all partitions.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from adapterkit import AdapterkitError, Predictor, Store

ANSWER = "answer"


def answer_rows(store: str, references: dict[str, str]) -> Callable[[Iterable[Any]], Iterator[Any]]:
    """The function for `mapInPandas`.

    Args:
        store: Folder or URL of the adapters.
        references: Version (`acme/intent@3`) by name.
    """

    def answer(frames: Iterable[Any]) -> Iterator[Any]:
        predictor = Predictor.open(list(references.values()), store)  # once for each partition
        for frame in frames:
            requests = list(zip(frame["adapter"], frame["text"], strict=True))
            found = predictor(requests)
            yield frame.assign(**{ANSWER: [json.dumps(one, ensure_ascii=False) for one in found]})

    return answer


def latest_versions(store: str, names: Iterable[str]) -> dict[str, str]:
    """The latest version of each name, so that all workers use the same one."""
    opened = Store(store)
    found = (opened.find(name) for name in names if name != "base")
    return {one.name: f"{one.name}@{one.number}" for one in found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="Parquet files with the columns adapter and text")
    parser.add_argument("target", help="folder for the answers, which must not exist")
    parser.add_argument("--store", default="adapters")
    options = parser.parse_args()

    from pyspark.sql import SparkSession
    from pyspark.sql.types import StringType, StructField, StructType

    spark = SparkSession.builder.appName("adapterkit").getOrCreate()
    rows = spark.read.parquet(options.source)
    names = [row["adapter"] for row in rows.select("adapter").distinct().collect()]
    try:
        references = latest_versions(options.store, names)
    except AdapterkitError as error:
        raise SystemExit(f"Error: {error}") from None
    schema = StructType([*rows.schema.fields, StructField(ANSWER, StringType())])
    rows.mapInPandas(answer_rows(options.store, references), schema).write.parquet(options.target)


if __name__ == "__main__":
    main()
