"""A team's servers on one machine: PostgreSQL, an S3 server, MLflow, Prefect and a worker. One module a service.

`layout` says where everything is, `processes` starts services and ends what it has started, `parts` is their order.
"""
