export { accuracy } from './accuracy'
export { loadTraining, saveTraining, type Training } from './checkpoint'
export { fit, type EpochEvent, type FitEvent, type FitOptions, type StepEvent } from './fit'
export { loadWeights, saveWeights, type WeightsOptions } from './weights'
