from core.starting import many_imports

with many_imports():
    from core.cli.app import main

main()
