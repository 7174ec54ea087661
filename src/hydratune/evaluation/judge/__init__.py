"""LLM-as-a-judge."""
