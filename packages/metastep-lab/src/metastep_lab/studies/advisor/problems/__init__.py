"""The problems on which the advice is compared with the truth."""
