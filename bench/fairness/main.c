/* Hogs on two CPUs for ten seconds: by how much the one farthest from the mean CPU time misses it, in percent of the mean. */
#include "../hogs.h"

static double worst(int count)
{
	pthread_t hogs[count];
	double sum = 0, error = 0;
	start_hogs(hogs, count);
	sleep_ms(10000);
	end_hogs(hogs, count);
	for (int i = 0; i < count; i++)
		sum += hog_cpu_ns[i];
	for (int i = 0; i < count; i++) {
		double miss = hog_cpu_ns[i] - sum / count;
		miss = miss < 0 ? -miss : miss;
		error = miss > error ? miss : error;
	}
	return 100 * error / (sum / count);
}

int main(void)
{
	result("fairness_3", worst(3));
	result("fairness_5", worst(5));
	return 0;
}
