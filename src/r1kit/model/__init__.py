"""The network: DeepSeek-V3's decoder and the dense families that R1 was distilled into, loaded from and saved
to Hugging Face directories.

Import from the modules; nothing is imported here, because ``model.config`` must not need torch.
"""
