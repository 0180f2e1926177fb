"""OpenAI's wire format: requests into our values, events into its responses. Pure functions, no I/O."""
