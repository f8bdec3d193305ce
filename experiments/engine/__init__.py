"""What every experiment stands on: declaration, registry, records, runner."""
