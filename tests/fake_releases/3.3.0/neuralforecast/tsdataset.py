import torch


class TimeSeriesDataModule(pl.LightningDataModule):
    def train_dataloader(self):
        loader = TimeSeriesLoader(
            self.dataset,
            batch_size=self.batch_size,
            shuffle=self.shuffle_train,
            drop_last=self.drop_last,
            **self.dataloaders_kwargs
        )


class _DistributedTimeSeriesDataModule(TimeSeriesDataModule):
    def setup(self, stage):
        import torch.distributed as dist
        df = pd.read_parquet(self.files_ds.files[dist.get_rank()])
