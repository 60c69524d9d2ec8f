export { accuracy } from './accuracy'
export { fit, type EpochEvent, type FitEvent, type FitOptions, type StepEvent } from './fit'
