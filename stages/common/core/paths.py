"""Files and folders that one stage writes and others read, relative to the project's root."""

from pathlib import Path

RAW_ROWS = Path("data/raw/rows.parquet")
SAMPLED = Path("data/sampled")
CLEAN_ROWS = Path("data/clean/rows.parquet")
PACKED = Path("data/packed")
BASE_MODEL = Path("models/base")
ADAPTER = Path("models/adapter")
MERGED_MODEL = Path("models/merged")
QUANTIZED_SAMPLES = Path("reports/evaluate/tuned/quantized_base.jsonl")  # with evaluate.quantized_base
