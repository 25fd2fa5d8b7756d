import torch


class BaseMultivariate(BaseModel):
    def predict(self, dataset, test_size, **kwargs):
        if (pred_trainer_kwargs.get("accelerator", None) == "gpu") and (
            torch.cuda.device_count() > 1
        ):
            pred_trainer_kwargs["devices"] = [0]
        fcsts = trainer.predict(self, datamodule=datamodule)
