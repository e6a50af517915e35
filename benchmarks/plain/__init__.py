"""The methods as research code usually has them: what labelwise's speed is compared with.

Float32 and NCHW, images one by one through Pillow in loader workers, a forward per view where
targets are guessed, two separate networks, and `.item()` after every step. Written from the
equations of the papers; correct, and not slower than that way of writing needs to be.
`tests/unit/test_plain_versions.py` compares losses and targets with labelwise's.
"""
