"""Find wrong labels in a folder of class folders, look at them, and train on the corrected ones.

python examples/own_images.py photos/
"""

from __future__ import annotations

import sys

import labelwise


def main(folder: str) -> None:
    result = labelwise.fit(folder, image_size=64, out="runs/own-images")
    doubtful = result.labels.query("is_suspect").sort_values("label_quality")
    print(doubtful[["id", "given_label", "suggested_label", "label_quality"]].head(20))
    print(f"report: {result.report()}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "photos/")
