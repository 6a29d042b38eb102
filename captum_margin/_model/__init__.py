"""Everything that touches a torch model, or Captum's private helpers."""
