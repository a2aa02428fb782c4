"""The OpenAI-compatible HTTP server: requests in, engine, answers out. Import the module you need from here."""
