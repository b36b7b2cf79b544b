"""The tests, and what they share.

MKL's vector functions differ in their last bits from one processor to the next, and one golden case hangs on them; in
this mode they do not. It must be set before torch is imported.
"""
import os

os.environ.setdefault("MKL_CBWR", "COMPATIBLE")
