"""One run, from its settings to its closing report."""
