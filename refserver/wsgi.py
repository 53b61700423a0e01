"""The WSGI application that gunicorn serves."""

import os

from django.core.wsgi import get_wsgi_application

from refserver.checks import refuse_mixed_stores

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "refserver.settings")

application = get_wsgi_application()
refuse_mixed_stores()
