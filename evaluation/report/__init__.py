"""The deletion report: tables, record and page."""
