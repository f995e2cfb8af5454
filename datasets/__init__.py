"""What the audio is: corpora, downloads, synthesis and the manifest. Imports no torch and no other package of ours."""
