"""Where gunicorn and `flask --app wsgi` find the application."""

from app import create_app

app = create_app()
