"""The WSGI application that gunicorn serves."""

from django.core.wsgi import get_wsgi_application

from refserver.start import explained

with explained("wsgi", exit_code=3):  # gunicorn then gives up, instead of trying again
    application = get_wsgi_application()
