"""The database: connections, transactions, schema, time, leases, statements' shapes."""
