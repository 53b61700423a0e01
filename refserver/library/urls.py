"""The addresses of the library."""

from django.urls import path

from refserver.library import views

app_name = "library"
urlpatterns = [
    path("", views.home, name="home"),
    path("papers/<int:pk>/", views.paper, name="paper"),
    path("papers/<int:pk>/original", views.original, name="original"),
    path("api/search", views.api_search, name="api-search"),
]
