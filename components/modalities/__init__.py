"""How people's things become tensors: one module for each modality; `modality.py` says what one is."""
