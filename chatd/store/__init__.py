"""What is kept: the database port with its adapters, migrations, the journal, and typed calls by feature."""
