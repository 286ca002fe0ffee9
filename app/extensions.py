"""Flask's extensions: made here, bound to the application in create_app()."""

from __future__ import annotations

from flask_migrate import Migrate
from flask_wtf.csrf import CSRFProtect

from app.accounts.access import login
from app.database import db

csrf = CSRFProtect()
migrate = Migrate()

__all__ = ["csrf", "db", "login", "migrate"]
