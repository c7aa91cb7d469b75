/** The folder of the private file system for products of stages. `scratch` places lie at their own paths beside it. */
export const STAGES = 'stages'

/** What stands before a job's key in the name of its folder there. */
export const STAGE_PREFIX = 'job-'
