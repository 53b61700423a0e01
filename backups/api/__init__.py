"""The REST interface below ``/api/v1/``: what the pages can do, for programs.

===============  ====================================================================================================
`operation`      what a route declares (rights, shapes, errors), from which its checks and its description follow
`shapes`         the JSON that goes out and comes in
`problems`       every error as RFC 9457's ``application/problem+json``
`callers`        who asks: a token or the admin's session
`rates`          how often one may ask
`paging`         lists that stay fast at any length
`once`           ``Idempotency-Key``
`reference`      the OpenAPI description, and the page to try it
others           a group of routes each, put together in `urls`
===============  ====================================================================================================
"""
