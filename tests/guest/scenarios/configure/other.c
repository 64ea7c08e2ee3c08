#include <math.h>

double root(double n)
{
	return sqrt(n);
}
