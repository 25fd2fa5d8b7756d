from nfpatch.cli import main

main(prog_name="nfpatch")
