// As of Klambauer et al. 2017: the mean 0 and the variance 1 are a fixed point of scale · ELU(alpha).
export const seluAlpha = 1.6732632423543772
export const seluScale = 1.0507009873554805
