"""The REST interface below ``/api/v1/``: the functions of the pages, for programs.

================  ===========================================================================================
`urls`            every address with its operations
`operation`       what an operation declares and reads: permission, JSON, errors; `jobs.job_operation`: one that queues a job
`resource`        the view behind every address
`authentication`  tokens and the admin's session; then `throttling`, `permissions`
`schemas`         base classes and field types of the JSON
`paging`          lists in pages
`idempotency`     ``Idempotency-Key``
`problems`        errors as ``application/problem+json`` (RFC 9457)
`openapi`         the OpenAPI description, which `reference` serves
`legacy`          the addresses of legacy clients
other modules     one subject each: its JSON, then its operations
================  ===========================================================================================
"""
